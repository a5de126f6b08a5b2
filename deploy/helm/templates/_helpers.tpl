{{/* Labels of an object. Arguments: the root, and the part of the installation. */}}
{{- define "labels" -}}
{{- $root := index . 0 -}}
{{- with index . 1 -}}
app.kubernetes.io/name: {{ $root.Release.Name }}-{{ . }}
{{ end -}}
app.kubernetes.io/part-of: {{ $root.Release.Name }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end }}

{{/* Labels of a pod. They have no version of the chart, so that another one replaces no pods. */}}
{{- define "podLabels" -}}
app.kubernetes.io/name: {{ (index . 0).Release.Name }}-{{ index . 1 }}
app.kubernetes.io/part-of: {{ (index . 0).Release.Name }}
{{- end }}

{{/* A group of workers: what it says, and the defaults. */}}
{{- define "group" -}}
{{- mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy (.group | default dict)) | toYaml }}
{{- end }}

{{- define "image" -}}
{{- $image := .Values.image -}}
{{- $name := required "set image.repository: your image, with your application and mr-celery[metrics]" $image.repository -}}
{{- if $image.digest }}{{ $name }}@{{ $image.digest }}
{{- else }}{{ $name }}:{{ required "set image.tag or image.digest" $image.tag }}{{ end }}
{{- end }}

{{- define "app" -}}
{{- required "set app: your Celery application, as in celery -A app" .Values.app }}
{{- end }}

{{/* What pods of bridges and workers share, before their containers. */}}
{{- define "podSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
volumes:
  - name: tmp
    emptyDir: {}
  - name: token
    secret:
      secretName: {{ .Values.secrets.token }}
      defaultMode: 0440
{{- end }}

{{/* What containers of bridges and workers share. */}}
{{- define "container" -}}
image: {{ include "image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
workingDir: {{ .Values.workingDir }}
envFrom:
  - configMapRef:
      name: {{ .Release.Name }}
  - secretRef:
      name: {{ .Values.secrets.environment }}
securityContext:
  {{- include "securityContext" . | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: token
    mountPath: /run/modelreins  # without subPath, so that it follows changes
    readOnly: true
{{- end }}

{{- define "securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Replaces the pods when the settings change. */}}
{{- define "annotations" -}}
checksum/settings: {{ toYaml .Values.settings | sha256sum }}
{{- end }}

{{/* Where a pod may run. Argument: a part of the values. */}}
{{- define "placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
