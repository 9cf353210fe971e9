{{- define "l4lb.selector" -}}
app.kubernetes.io/name: l4lb
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "l4lb.meta" -}}
name: {{ .Release.Name | quote }}
namespace: {{ .Release.Namespace | quote }}
labels:
  {{- include "l4lb.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Where `config` and the other values say the same thing, they have to agree. */ -}}
{{- define "l4lb.agreed" -}}
{{- $bind := printf "127.0.0.1:%d" (int .Values.adminPort) -}}
{{- if not (regexMatch (printf `(?m)^\s*bind\s*=\s*"%s"` (replace "." "[.]" $bind)) .Values.config) -}}
{{- fail (printf "config: expected bind = \"%s\" in [admin], as adminPort says" $bind) -}}
{{- end -}}
{{- if and .Values.adminTokenSecret (not (regexMatch `(?m)^\s*token_file\s*=\s*"/run/secrets/l4lb/token"` .Values.config)) -}}
{{- fail "config: expected token_file = \"/run/secrets/l4lb/token\" in [admin], as there is adminTokenSecret" -}}
{{- end -}}
{{- $drain := .Values.config | regexFind `(?m)^\s*drain_timeout\s*=\s*"\d+s"` | regexFind `\d+` | int -}}
{{- $least := add (int .Values.preStopSeconds) $drain 5 -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $least) -}}
{{- fail (printf "terminationGracePeriodSeconds: expected at least %d: preStopSeconds, drain_timeout and 5 s" $least) -}}
{{- end -}}
{{- end }}

{{- define "l4lb.pod" -}}
{{- include "l4lb.agreed" . -}}
metadata:
  labels:
    {{- include "l4lb.selector" . | nindent 4 }}
  annotations:
    checksum/config: {{ .Values.config | sha256sum | quote }}
spec:
  serviceAccountName: {{ .Release.Name | quote }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- if .Values.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.kind "Deployment" }}
  affinity:
    podAntiAffinity:
      {{- if .Values.hostNetwork }}
      requiredDuringSchedulingIgnoredDuringExecution:
        - {{ include "l4lb.apart" . | nindent 10 | trim }}
      {{- else }}
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            {{- include "l4lb.apart" . | nindent 12 }}
      {{- end }}
  {{- end }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: l4lb
      {{- include "l4lb.container" . | nindent 6 }}
  volumes:
    - name: config
      configMap: {name: {{ .Release.Name | quote }}}
    - name: run
      emptyDir: {medium: Memory, sizeLimit: 16Mi}
    {{- with .Values.adminTokenSecret }}
    - name: token
      secret: {secretName: {{ . | quote }}}
    {{- end }}
{{- end }}

{{- define "l4lb.apart" -}}
topologyKey: kubernetes.io/hostname
labelSelector:
  matchLabels:
    {{- include "l4lb.selector" . | nindent 4 }}
{{- end }}

{{- define "l4lb.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: ["serve", "-c", "/etc/l4lb/lb.toml"]
env:  # for `kubectl exec POD -- l4lb status`, and for probes that are commands
  - {name: L4LB_ADMIN, value: "127.0.0.1:{{ .Values.adminPort }}"}
  {{- if .Values.adminTokenSecret }}
  - {name: L4LB_TOKEN_FILE, value: /run/secrets/l4lb/token}
  {{- end }}
ports:
  {{- range .Values.ports }}
  - name: {{ .name | quote }}
    containerPort: {{ .port }}
    {{- if $.Values.hostNetwork }}
    hostPort: {{ .port }}
    {{- end }}
    protocol: {{ .protocol }}
  {{- end }}
  {{- if .Values.hostNetwork }}
  - {name: admin, containerPort: {{ .Values.adminPort }}, hostPort: {{ .Values.adminPort }}, protocol: TCP}
  {{- end }}
{{- if .Values.hostNetwork }}
livenessProbe:
  httpGet: {host: 127.0.0.1, path: /healthz, port: {{ .Values.adminPort }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {host: 127.0.0.1, path: /readyz, port: {{ .Values.adminPort }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- else }}
livenessProbe:  # commands: the kubelet is outside of the pod, where 127.0.0.1 is another
  exec:
    command: ["l4lb", "status"]
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  exec:
    command: ["l4lb", "health", "--timeout", "3s"]
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}
lifecycle:
  preStop:
    exec:
      command: ["sleep", "{{ .Values.preStopSeconds }}"]
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: config, mountPath: /etc/l4lb, readOnly: true}
  - {name: run, mountPath: /run/l4lb}
  {{- if .Values.adminTokenSecret }}
  - {name: token, mountPath: /run/secrets/l4lb, readOnly: true}
  {{- end }}
{{- end }}
